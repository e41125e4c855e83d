"""The web page of `app`.

`models` are those of the registry, a `look` is one person's look at one image, `views` are what is shown of it, and
`layout`, which alone imports Gradio, puts them on the page.
"""
