"""Settings of the slides, for Sphinx: `make site`. `lib/course/slides.py` writes them."""

from pathlib import Path

project = "3D deep learning, hands on"
language = "en"

extensions = ["myst_parser", "sphinx_revealjs"]
root_doc = "index"
myst_enable_extensions = ["dollarmath", "amsmath"]
# The website's copy, from the folder of the slides.
mathjax_path = "../../_static/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}

revealjs_static_path = [str(Path(__file__).parent)]
revealjs_css_files = ["slides.css"]
revealjs_style_theme = "white"
revealjs_script_conf = {"width": 1280, "height": 720, "hash": True, "slideNumber": "c/t", "transition": "none"}
revealjs_use_section_ids = True
