"""Responses -> judged responses: another language model scores the responses of the evaluated one.

    responses ──> questions ──> an endpoint, or its earlier replies ──> replies ──> scores
                protocols     endpoint     replies                    protocols   responses

    protocols  prompts of the judge, and verdicts from its replies; pure
    endpoint   concurrent requests with retries
    bounded    responses that end, in time and size
    answers    text and tokens in a response, whole or streamed
    budget     dollars that may be spent
    replies    every reply, on disk, so that none is paid for twice
    responses    columns of the responses

The judge learns nothing about the evaluated model: neither its name nor other responses.
"""
