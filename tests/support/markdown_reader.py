"""Markdown read as a website shows it: tables on, HTML on."""

from markdown_it import MarkdownIt

ACTIVE = {"link_open", "image", "html_inline", "html_block", "fence", "code_block"}


def parse(text):
    """All tokens, those within a line as well."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return [each for token in reader.parse(text) for each in [token, *(token.children or [])]]


def shown(token):
    """The text that a reader sees of an inline token."""
    return "".join(child.content for child in token.children or [] if child.type != "image")


def tables(text):
    """Each table as rows of the cells that a reader sees."""
    found = []
    tokens = parse(text)
    for token, after in zip(tokens, tokens[1:] + tokens[:1], strict=True):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            found[-1][-1].append(shown(after))
    return found
