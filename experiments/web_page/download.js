// Saves a file that the page was given as JSON: {"name", "type", "content" in base64}. Nothing is left on the server.
window.segDownload = (text) => {
  const given = JSON.parse(text);
  const bytes = Uint8Array.from(atob(given.content), (sign) => sign.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: given.type }));
  link.download = given.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
};
