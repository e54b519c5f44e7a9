"""Records -> judged records: another language model reads what the evaluated one said.

    records ──> questions ──> an endpoint, or what it said before ──> replies ──> scores
                protocols     endpoint     replies                    protocols   records

    protocols  what is asked, and how a reply is read; pure
    endpoint   requests side by side, repeated where they fail
    budget     dollars that may be spent
    replies    every reply, on disk, so that none is paid for twice
    records    columns of the records

The judge learns nothing of the evaluated model: not its name, nor what other models said.
"""
