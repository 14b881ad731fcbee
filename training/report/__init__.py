"""The pipeline's report, rendered as an HTML page with galleries and as Markdown without crops."""
