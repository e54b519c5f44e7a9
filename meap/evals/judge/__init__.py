"""Records -> judged responses: another language model reads what the evaluated one said.

    responses ──> questions ──> an endpoint, or what it said before ──> replies ──> scores
                protocols     endpoint     replies                    protocols   responses

    protocols  what is asked, and how a reply is read; pure
    endpoint   requests side by side, repeated where they fail
    budget     dollars that may be spent
    replies    every reply, on disk, so that none is paid for twice
    responses    columns of the responses

The judge learns nothing of the evaluated model: not its name, nor what other models said.
"""
