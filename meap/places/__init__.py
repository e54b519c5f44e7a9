"""A file or folder, here or in a store: read, list, write whole, delete.

addresses   paths and URLs as users write them, and the one endpoint of S3
folder      files below a folder or a URL; remote operations are retried a bounded number of times
whole       a local file that appears whole or not at all
locks       who works in a place: one at a time, and its name
problems    one error for each way in which a place can fail: the address, the failure, the remedy
near        names that are not there, and what was probably meant
redaction   no secrets in what is shown or stored

Nothing here is imported with the package: `whole`, `locks`, `addresses`, `near` and `redaction` need the standard
library only.
"""
