"""How Sphinx builds this documentation. Nothing is fetched while it builds, or when it is read."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import inventories  # noqa: E402

project = "kronops"
author = "kronops developers"
project_copyright = "kronops developers"
version = release = installed_version("kronops")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "sphinx_copybutton",
    "sphinx_design",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]
default_role = "autolink"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# One page for each public name, written anew by every build.
autosummary_generate = True
autodoc_typehints = "none"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
# Of adapters; the examples need PyTorch.
autodoc_mock_imports = ["equinox", "jax", "linear_operator", "lineax"]
numpydoc_show_class_members = False
numpydoc_validation_checks = {"PR02", "PR03"}

intersphinx_mapping = inventories.mapping(HERE / "generated" / "inventories")
# Names that are no part of the API but named in it, and lineax's, whose documentation has no
# inventory.
nitpick_ignore_regex = [
    ("py:.*", r"(linear_operator|lineax)\..*"),
    ("py:.*", r"(.*\.)?_\w+"),
    ("py:obj", r"kronops(\.(algebra|operators)\b.*)?|LAWS"),
]

# Prompts and outputs stay behind when code is copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Scripts that this build runs; an error in one is an error of the build.
sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "generated/examples",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "notebook_extensions": set(),
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
    "reset_modules": ("matplotlib", "gallery.draw_for_light_and_dark"),
}

html_theme = "pydata_sphinx_theme"
html_title = "kronops"
html_static_path = ["_static"]
html_css_files = ["kronops.css"]
html_show_sourcelink = False
html_theme_options = {
    "header_links_before_dropdown": 8,
    "navigation_with_keys": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": []}
