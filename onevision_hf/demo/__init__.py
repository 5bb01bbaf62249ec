"""The page in the browser: drop a clip, move the budget, see what is kept and what is lost.

    onevision demo                      # needs the extra `demo`
    python onevision_hf/demo/app.py     # the same; this folder is a Hub Space as it is

`opened_clip` reads a clip, `panels` writes what is shown as HTML, `page` is the page itself.
"""
