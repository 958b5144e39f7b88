"""The page of hyperclip-app: image and words in, overlay, legend, pixel scores and files out.

The systems on offer, the answers that are kept, and the Gradio page around them.
"""
