"""Colours, fonts and the style of the page: dark and light, with contrasts of WCAG's level AA."""

import gradio as gr

CSS = """
.hc-error, .hc-note { border-left: 4px solid #2563eb; padding: .5rem .75rem; margin: .25rem 0;
  color: var(--body-text-color); background: var(--background-fill-secondary);
  overflow-wrap: anywhere }
.hc-error { border-left-color: #dc2626 }
.hc-scroll { max-height: 24rem; overflow: auto }
.hc-legend { border: 0 !important; border-collapse: collapse; width: 100%;
  color: var(--body-text-color) }
.hc-legend :is(thead, tbody, tr) { border: 0 !important }
.hc-legend caption { text-align: left; font-weight: 600; padding: .25rem }
.hc-legend th, .hc-legend td { text-align: left; padding: .2rem .4rem; font-weight: 400;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important;
  overflow-wrap: anywhere }
.hc-legend thead th { font-weight: 600 }
.hc-legend td, .hc-legend thead th + th { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums }
#name-pixel, #look-from { align-self: end }
.hc-pixel ol { display: flex; flex-wrap: wrap; gap: .25rem 2.5rem; margin: 0 }
.hc-swatch { display: inline-block; width: 1em; height: 1em; margin-right: .5em;
  border: 1px solid var(--body-text-color); vertical-align: -.15em }
:focus-visible { outline: 3px solid #2563eb !important; outline-offset: 2px }
.dark :focus-visible { outline-color: #93c5fd !important }
"""
"""The page's own style, on top of Gradio's theme."""


def theme() -> gr.Theme:
    """Gradio's own, darker or lighter where text would be faint, and with the browser's fonts, so
    that nothing is fetched.
    """
    own = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )
    faint = {name: "*neutral_600" for name in ("body_text_color_subdued", "block_info_text_color")}
    faint |= {f"{name}_dark": "*neutral_300" for name in list(faint)}
    return own.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        **faint,
    )
