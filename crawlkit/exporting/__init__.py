"""Exporting: items on their way out, into files, to other machines, into frames."""
