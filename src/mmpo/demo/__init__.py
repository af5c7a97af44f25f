"""`mmpo demo`: the whole road in minutes, on a generated world whose truth is known."""
