"""What `run.py` is made of.

declaration  the yaml           material  corpora and shards      texts     what corpora say
launching    entry points       running   stages of every run     findings  intervals, tests, verdict, sentence
picture      panels             pages    the map
"""
