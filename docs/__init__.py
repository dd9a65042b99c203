"""The documentation: guide pages, and the code that generates what is made from the program."""
