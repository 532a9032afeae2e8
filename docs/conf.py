"""How Sphinx builds this documentation. Nothing is fetched while it builds."""

from importlib.metadata import version as installed_version

project = "kronops"
author = "kronops developers"
project_copyright = "kronops developers"
version = release = installed_version("kronops")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
templates_path = ["_templates"]
default_role = "autolink"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# One page for each public name, written anew by every build.
autosummary_generate = True
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_mock_imports = ["equinox", "jax", "lineax"]  # of kronops.lineax
numpydoc_show_class_members = False
numpydoc_validation_checks = {"PR02", "PR03"}

# Names of other projects are not looked up over the network, and stand as text; so do names that
# are no part of the API but named in it.
nitpick_ignore_regex = [
    ("py:.*", r"(numpy|scipy|array_api_compat|lineax)\..*"),
    ("py:.*", r"(.*\.)?_\w+"),
    ("py:obj", r"kronops(\.(algebra|operators)\b.*)?|LAWS"),
]

html_theme = "pydata_sphinx_theme"
html_title = "kronops"
html_static_path = ["_static"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": []}
