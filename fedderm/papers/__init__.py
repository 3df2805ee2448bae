"""Papers for the ethics board, filled from a run's folder: a model card and two reporting checklists.

What a run cannot know is marked as missing, with what is wanted; nothing is made up.
"""

from fedderm.papers.markdown import as_html
from fedderm.papers.writing import papers_of, write_papers

__all__ = ["as_html", "papers_of", "write_papers"]
