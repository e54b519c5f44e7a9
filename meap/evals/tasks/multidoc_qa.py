"""Multi-document question answering: paper (arXiv 2502.07490) Tables 3, 7, 8, 9 and 15, Figure 5.

The protocol is that of lost in the middle (Liu et al., 2024; repository nelson-liu/lost-in-the-middle, 29b8a6d):
NQ-Open questions over 10 or 20 documents, one of which holds the answer, at a chosen position. What was matched: the
prompts, verbatim (``qa.prompt``, ``closedbook_qa.prompt``, without a newline at the end); documents numbered from 1;
greedy decoding of up to 100 tokens; the answer is one line; ``best_subspan_em``; position 1 is the published gold index
0.

The published scripts disagree about an answer after a newline. The one for Llama 2 strips the output before it takes
the first line, so that the answer counts: this is ``best_subspan_em``, the headline. The one for MPT takes the first
line as it is, so that an output that begins with a newline is empty: ``unstripped``, beside it.

Sources, see `multidoc_qa.source`:

    folder of the published files    distractors are Contriever's, in their order of relevance: the paper's numbers
    nq-open-oracle.jsonl.gz          distractors are other questions' passages without the answer: easier
    unset                            passages about generated facts: for small models and tests

What differs: base models get the prompt unchanged, as upstream, and so do chat models; an answer that normalises to
nothing never counts, where upstream always counts it; a prompt that does not fit is refused or wrong, where upstream
skips it. Controls: ``closed book`` without documents is the floor, ``oracle`` with the answering document alone is
Table 9's setting.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from meap.errors import BadInputError, ConfigError, DataError
from meap.evals.answers import best_subspan_em, normalize_answer
from meap.evals.pictures import draw_curves
from meap.evals.rows import read_jsonl
from meap.evals.task import Example, Metric, Output, Response, Scores, Task, TaskInputs
from meap.synthetic import generate_document

__all__ = ["TASK", "WHERE_FILES_ARE", "Document", "Question", "closed_book_prompt", "examples", "prompt", "score"]

_PROMPT = (
    "Write a high-quality answer for the given question using only the provided search results (some of which might be "
    "irrelevant).\n\n{documents}\n\nQuestion: {question}\nAnswer:"
)
_CLOSED_BOOK_PROMPT = "Question: {question}\nAnswer:"
WHERE_FILES_ARE = "clone github.com/nelson-liu/lost-in-the-middle and give its path"
"""How to get the published files."""
_GENERATED_QUESTIONS = 200
_SEED_OFFSET = 0x4D446F6351


@dataclass(frozen=True)
class Document:
    """A passage."""

    title: str
    text: str
    is_gold: bool = False
    """Whether it holds the answer."""


@dataclass(frozen=True)
class Question:
    """A question and its documents."""

    question: str
    answers: tuple[str, ...]
    documents: tuple[Document, ...]


def prompt(question: str, documents: Sequence[Document]) -> str:
    """The prompt with documents."""
    lines = [
        f"Document [{index}](Title: {document.title}) {document.text}"
        for index, document in enumerate(documents, start=1)
    ]
    return _PROMPT.format(documents="\n".join(lines), question=question)


def closed_book_prompt(question: str) -> str:
    """The prompt without documents."""
    return _CLOSED_BOOK_PROMPT.format(question=question)


def examples(inputs: TaskInputs) -> list[Example]:
    """Documents by position by question, and the controls."""
    config = inputs.config.multidoc_qa
    asked: list[tuple[str, str, Question, dict[str, Any], bool]] = []
    at_position = _source(config.source, inputs.config.seed)
    first: list[Question] = []
    for documents in config.documents:
        for position in config.positions:
            if position > documents:
                continue
            questions = at_position(documents, position)[: config.questions or None]
            first = first or questions
            facts = {"documents": documents, "position": position}
            asked += [
                (f"{documents}-{position}-{index}", prompt(each.question, each.documents), each, facts, False)
                for index, each in enumerate(questions)
            ]
    for name, wanted in (("closed book", config.closed_book), ("oracle", config.oracle)):
        for index, each in enumerate(first if wanted else []):
            gold = [document for document in each.documents if document.is_gold]
            text = closed_book_prompt(each.question) if name == "closed book" else prompt(each.question, gold)
            asked.append((f"{name}-{index}", text, each, {"condition": name}, True))
    encoded = inputs.encode([text for _, text, *_ in asked])
    return [
        Example(
            id=name,
            prompt=ids,
            max_new_tokens=config.max_new_tokens,
            stop="\n",
            answers=each.answers,
            facts={"documents": None, "position": None, "condition": None, "question": each.question} | facts,
            cluster=each.question,
            control=control,
        )
        for (name, _, each, facts, control), ids in zip(asked, encoded, strict=True)
    ]


def score(example: Example, output: Output) -> Scores:
    """Whether an answer is in the first line of the response, stripped first or not."""
    lines = {"best_subspan_em": output.text.strip(), "unstripped": output.text}
    return {name: float(best_subspan_em(text.split("\n", 1)[0], example.answers)) for name, text in lines.items()}


_At = Callable[[int, int], list[Question]]
"""(number of documents, position of the answering one) -> questions."""


def _source(source: str | None, seed: int) -> _At:
    if source is None:
        return _Builder(_generated(seed), seed)
    path = Path(source)
    if path.is_dir():
        return partial(_published, path)
    rows = read_jsonl(path, key="multidoc_qa.source", remedy=WHERE_FILES_ARE)
    return _Builder([_question(row, origin=str(path)) for row in rows], seed)


def _published(folder: Path, documents: int, position: int) -> list[Question]:
    name = f"nq-open-{documents}_total_documents_gold_at_{position - 1}.jsonl.gz"
    nested = folder / f"{documents}_total_documents" / name
    path = nested if nested.is_file() else folder / name
    if not path.is_file():
        raise DataError(
            f"multidoc_qa.source={folder} has no {name}: clone github.com/nelson-liu/lost-in-the-middle and give its "
            "qa_data, or choose multidoc_qa.documents and multidoc_qa.positions that have files"
        )
    questions = [
        _question(row, origin=str(path)) for row in read_jsonl(path, key="multidoc_qa.source", remedy=WHERE_FILES_ARE)
    ]
    for number, each in enumerate(questions, start=1):
        gold = [index for index, document in enumerate(each.documents, start=1) if document.is_gold]
        if len(each.documents) != documents or gold != [position]:
            raise BadInputError(
                f"{path}, line {number} has {len(each.documents)} documents and gold ones at {gold}, not {documents} "
                f"with one at {position}: download the published file again"
            )
    return questions


def _question(row: dict[str, Any], *, origin: str) -> Question:
    try:
        documents = tuple(
            Document(str(each["title"]), str(each["text"]), bool(each.get("isgold"))) for each in row["ctxs"]
        )
        answers = row["answers"]
        # A string would be read as a list of letters, each an answer.
        return Question(str(row["question"]), (answers,) if isinstance(answers, str) else tuple(answers), documents)
    except (KeyError, TypeError) as error:
        raise BadInputError(
            f"{origin} has a row without question, answers and ctxs with title and text ({error}): it is not a file of "
            "lost in the middle"
        ) from error


class _Builder:
    """Puts each question's answering document among passages of other questions.

    The same distractors in the same order stand around it at every position, and fewer documents are the first of more.
    """

    def __init__(self, questions: Sequence[Question], seed: int) -> None:
        self._questions = questions
        self._seed = seed
        self._passages = [next(each for each in question.documents if each.is_gold) for question in questions]
        self._normalised = [f" {normalize_answer(f'{each.title} {each.text}')} " for each in self._passages]

    def __call__(self, documents: int, position: int) -> list[Question]:
        return [self._place(index, documents, position) for index in range(len(self._questions))]

    def _place(self, index: int, documents: int, position: int) -> Question:
        question = self._questions[index]
        chosen: list[Document] = []
        for each in self._distractors(index):
            if len(chosen) == documents - 1:
                break
            chosen.append(each)
        if len(chosen) < documents - 1:
            raise ConfigError(
                f"multidoc_qa.documents={documents} is too large: only {len(chosen)} passages do not answer "
                f"{question.question!r}; give fewer documents, or a source with more questions"
            )
        placed = (*chosen[: position - 1], self._passages[index], *chosen[position - 1 :])
        return Question(question.question, question.answers, placed)

    def _distractors(self, index: int) -> Iterator[Document]:
        # Whole words, as in upstream's retrieval: an answer such as S is part of every passage.
        answers = [f" {answer} " for answer in map(normalize_answer, self._questions[index].answers) if answer]
        rng = random.Random(f"multidoc_qa {self._seed} {index}")  # noqa: S311 (not for secrets)
        order = list(range(len(self._passages)))
        seen = {self._passages[index].text}
        while order:
            # A lazy shuffle: shuffling thousands of passages for each of thousands of questions would take minutes.
            place = rng.randrange(len(order))
            order[place], order[-1] = order[-1], order[place]
            other = order.pop()
            passage = self._passages[other]
            if passage.text not in seen and not any(answer in self._normalised[other] for answer in answers):
                seen.add(passage.text)
                yield Document(passage.title, passage.text)


def _generated(seed: int) -> list[Question]:
    """A question for the first fact of each generated document, answered by the sentence that states it."""
    questions: list[Question] = []
    index = 0
    while len(questions) < _GENERATED_QUESTIONS:
        document = generate_document(seed + _SEED_OFFSET, index)
        index += 1
        if not document.facts:
            continue
        fact = document.facts[0]
        text = fact.statement(index % 3)
        questions.append(
            Question(
                f"What is the {fact.attribute} of the {fact.subject}?",
                (fact.value,),
                (Document(fact.subject, text, is_gold=True),),
            )
        )
    return questions


def _further(responses: Sequence[Response]) -> dict[str, Any]:
    empty = {
        response["question"]
        for response in responses
        if any(not normalize_answer(answer) for answer in response["answers"])
    }
    return {"questions_with_an_empty_answer": len(empty)}


TASK = Task(
    title="Multi-document QA",
    examples=examples,
    score=score,
    metrics=(
        Metric("best_subspan_em", "answer in the first line (best_subspan_em)"),
        Metric("unstripped", "answer in the first line, before stripping (MPT's script)"),
    ),
    by=("documents", "position", "condition"),
    draw=partial(draw_curves, x="position", metrics=("best_subspan_em",), x_label="position of the answering document"),
    further=_further,
)
