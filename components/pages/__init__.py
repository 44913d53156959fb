"""The drawing kit of every page: figures, charts, strips, Markdown tables, the page template."""
