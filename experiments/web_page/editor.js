// Redraws a mask on a canvas of the image's own size. Pixels are set one by one: nothing is smoothed.
window.segEditor = (() => {
  const FILL = [86, 180, 233];
  let image, mask, width, height, before = [], tool = "brush", last = null;
  const root = () => document.querySelector(".seg-editor");
  const canvas = () => root().querySelector("canvas");

  const picture = (address) => new Promise((done, failed) => {
    const found = new Image();
    found.onload = () => done(found);
    found.onerror = failed;
    found.src = address;
  });

  const pixels = (found) => {
    const board = document.createElement("canvas");
    board.width = found.naturalWidth;
    board.height = found.naturalHeight;
    const context = board.getContext("2d", { willReadFrequently: true });
    context.drawImage(found, 0, 0);
    return context.getImageData(0, 0, board.width, board.height);
  };

  function draw(left = 0, top = 0, right = width, bottom = height) {
    left = Math.max(0, left); top = Math.max(0, top);
    right = Math.min(width, right); bottom = Math.min(height, bottom);
    if (right <= left || bottom <= top) return;
    const part = new ImageData(right - left, bottom - top);
    for (let y = top, to = 0; y < bottom; y++) {
      for (let x = left; x < right; x++, to += 4) {
        const from = 4 * (y * width + x), covered = mask[y * width + x];
        for (let c = 0; c < 3; c++) {
          part.data[to + c] = covered ? 0.5 * image[from + c] + 0.5 * FILL[c] : image[from + c];
        }
        part.data[to + 3] = 255;
      }
    }
    canvas().getContext("2d").putImageData(part, left, top);
  }

  async function load(text) {
    const given = JSON.parse(text);
    const [shown, drawn] = (await Promise.all([picture(given.image), picture(given.mask)])).map(pixels);
    ({ width, height } = shown);
    image = shown.data;
    mask = Uint8Array.from({ length: width * height }, (_, index) => (drawn.data[4 * index] > 127 ? 1 : 0));
    before = [];
    while (!root()) await new Promise(requestAnimationFrame);
    Object.assign(canvas(), { width, height });
    root().querySelector("input").value = Math.max(2, Math.round(Math.max(width, height) / 24));
    choose("brush");
    draw();
    root().dataset.ready = "yes";
  }

  function choose(name) {
    tool = name;
    root().querySelectorAll("[data-tool]").forEach((button) =>
      button.setAttribute("aria-pressed", String(button.dataset.tool === name)));
  }

  function place(event) {
    const box = canvas().getBoundingClientRect();
    return [(event.clientX - box.left) * width / box.width, (event.clientY - box.top) * height / box.height];
  }

  function disc(x, y, radius, value) {
    for (let row = Math.max(0, Math.floor(y - radius)); row < Math.min(height, y + radius); row++) {
      for (let column = Math.max(0, Math.floor(x - radius)); column < Math.min(width, x + radius); column++) {
        const dx = column + 0.5 - x, dy = row + 0.5 - y;
        if (dx * dx + dy * dy <= radius * radius) mask[row * width + column] = value;
      }
    }
  }

  function stroke(from, to) {
    const radius = Number(root().querySelector("input").value) / 2;
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / Math.max(0.5, radius / 2)));
    for (let step = 0; step <= steps; step++) {
      const [x, y] = [0, 1].map((axis) => from[axis] + (to[axis] - from[axis]) * step / steps);
      disc(x, y, radius, tool === "brush" ? 1 : 0);
    }
    const [left, right] = [Math.min(from[0], to[0]), Math.max(from[0], to[0])];
    const [top, bottom] = [Math.min(from[1], to[1]), Math.max(from[1], to[1])];
    draw(Math.floor(left - radius), Math.floor(top - radius), Math.ceil(right + radius), Math.ceil(bottom + radius));
  }

  function remember() {
    before.push(mask.slice());
    if (before.length > 20) before.shift();
  }

  document.addEventListener("pointerdown", (event) => {
    if (!mask || !event.target.closest(".seg-editor canvas")) return;
    event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    remember();
    last = place(event);
    stroke(last, last);
  });
  document.addEventListener("pointermove", (event) => {
    if (!last) return;
    const next = place(event);
    stroke(last, next);
    last = next;
  });
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => { last = null; });
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".seg-editor button");
    if (!button || !mask) return;
    if (button.dataset.tool) choose(button.dataset.tool);
    if (button.dataset.do === "undo" && before.length) { mask = before.pop(); draw(); }
    if (button.dataset.do === "clear") { remember(); mask.fill(0); draw(); }
  });

  function png() {
    const board = document.createElement("canvas");
    Object.assign(board, { width, height });
    const drawn = new ImageData(width, height);
    for (let index = 0; index < mask.length; index++) {
      drawn.data.fill(mask[index] ? 255 : 0, 4 * index, 4 * index + 3);
      drawn.data[4 * index + 3] = 255;
    }
    board.getContext("2d").putImageData(drawn, 0, 0);
    return board.toDataURL("image/png");
  }

  return { load, png };
})();
