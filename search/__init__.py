"""From a query to hits: parse it, embed it, retrieve candidates, describe them.

The ways in are `search.query.parse_query` and `search.engine.SearchEngine`.
"""
