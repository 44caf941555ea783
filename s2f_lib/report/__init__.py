"""The book: chapters are run, their numbers, tables and figures put on pages, and the pages built."""
