"""What people look at, made once: pages, charts, tables for the terminal, sizes and durations, progress.

pages      data -> one HTML file that opens offline: a template of `templates/` with `style.css` in it
charts     data -> marks on matplotlib's axes: lines, bars, heat map, points with intervals
figures    axes -> SVG for a page, which follows light and dark, or panels of a PNG
tables     rows -> aligned text
numbers    sizes, durations, short numbers
progress   a bar on a terminal, a plain line now and then elsewhere

Nothing here knows what it shows. Jinja, matplotlib and rich are imported when a page, a chart or a bar is made.
"""
