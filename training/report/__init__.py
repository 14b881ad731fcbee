"""The pipeline's report: one content, rendered as a page with galleries and as Markdown without a crop."""
