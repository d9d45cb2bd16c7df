"""Text out of formats that mix it with markup: HTML and Markdown."""
