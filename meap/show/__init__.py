"""What people look at: pages, charts, tables for the terminal, sizes and durations, progress.

pages      data -> one HTML file that opens offline: a template of `templates/` with `style.css` in it
lines      series over a common axis            bars      a bar per label, upright or sideways
intervals  values with their intervals          heat_map  shares as shades
figures    matplotlib's axes -> SVG for a page, which follows light and dark, or panels of a PNG
pointer    the values of a chart under the pointer
tables     rows -> aligned text
numbers    sizes, durations, short numbers
progress   a bar on a terminal, a plain line now and then elsewhere

Nothing here knows what it shows. Jinja, matplotlib and rich are imported when the first page, chart or bar is made.
"""
