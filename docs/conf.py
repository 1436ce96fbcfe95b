"""Settings of the website, for Sphinx: `make site`. `lib/course/site.py` prepares the pages."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The one setting: the address of the course's repository, such as "https://github.com/owner/course3d". It gives every
# chapter the buttons that open it there and in Colab. Empty: no such buttons.
REPOSITORY = ""

project = html_title = "3D deep learning, hands on"
author = "the authors of the course"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
copyright = f"2026 {author}"
language = "en"

extensions = ["myst_nb"]
root_doc = "index"

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show = nb_code_prompt_hide = "The code of this cell"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
mathjax_path = "tex-svg.js"
# The menu of a formula would fetch more of MathJax than is here.
mathjax3_config = {"options": {"enableMenu": False}}

html_theme = "sphinx_book_theme"
html_static_path = [str(ROOT / "build" / "site" / "source" / "_static")]
html_css_files = ["course.css"]
html_js_files = [("course.js", {"defer": "defer"})]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_content_items": ["copyright", "extra-footer"],
    "extra_footer": '<p>Text and figures: <a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>. '
    "Code: MIT license.</p>",
    # Search is in the side bar.
    "navbar_persistent": [],
} | (
    {
        "repository_url": REPOSITORY,
        "use_repository_button": True,
        "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    }
    if REPOSITORY
    else {}
)
