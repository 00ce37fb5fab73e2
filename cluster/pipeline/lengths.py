"""Measure a job's training texts in tokens, and choose the number of tokens for ``training.max_length: auto``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...training.distillation.config import AUTO, LEAST_TOKENS, MOST_AUTOMATIC
from ..specification.config import JobConfig

if TYPE_CHECKING:
    from ...texts import TextOrPair
    from ...training.checkpoints.once import Checkpoints
    from ...training.data.analysis.lengths import TokenLengths

logger = logging.getLogger(__name__)

_MANY_TRUNCATED = 0.01  # share of the training texts
_MOST_OF_NEW = 512  # tokens of a teacher trained from scratch; most pretrained encoders have the same limit
_MOST_OF_WINDOW = 384  # tokens of a question with a part of its context, as for SQuAD in Devlin et al. (2019)


def measure_texts(
    config: JobConfig,
    texts: Sequence[TextOrPair],
    checkpoints: Checkpoints,
    new_tokenizer: Callable[[], Any],
    recorded: int | None = None,
) -> TokenLengths | None:
    """Measure the training texts in tokens of the teacher, and warn if many of them are truncated.

    Args:
        config: The specification with paths of this machine.
        texts: Texts of the training split.
        checkpoints: Loads the tokenizers.
        new_tokenizer: Returns the tokenizer that a teacher trained from scratch will have; takes a moment.
        recorded: Length that a resumed run chose before; it is kept.

    Returns:
        The lengths, with the chosen number as ``max_length`` if that is ``auto``. None if ``max_length`` is given and
        the teacher is trained from scratch, since its tokenizer does not exist yet.

    Raises:
        ModelError: A model does not accept a text of the chosen length.
    """
    from ...training import tasks
    from ...training.data.analysis.lengths import count_tokens, token_lengths

    given, name = config.training.max_length, config.teacher.first.encoder
    if name is None and given != AUTO:
        return None
    tokenizer = new_tokenizer() if name is None else checkpoints.tokenizer(name)
    counts = count_tokens(tokenizer, texts)
    if given != AUTO:
        found = token_lengths(counts, config.training.num_tokens)
    else:
        chosen = _chosen_length(config, counts, texts, checkpoints) if recorded is None else recorded
        found = token_lengths(counts, chosen, automatic=True)
    if found.share_truncated > _MANY_TRUNCATED and not tasks.get(config.task).of_windows:
        _warn_of_truncated(found)
    return found


def with_number(config: JobConfig, lengths: TokenLengths | None) -> JobConfig:
    """Return the specification with the chosen number in place of ``training.max_length: auto``."""
    if lengths is None or config.training.max_length != AUTO:
        return config
    training = config.training.model_copy(update={"max_length": lengths.max_length})
    return config.model_copy(update={"training": training})


def _chosen_length(
    config: JobConfig, counts: Any, texts: Sequence[TextOrPair], checkpoints: Checkpoints
) -> int:
    """Return the length that 99.5 % of the texts fit in, with every tokenizer of the job, up to its models' limits.

    Each checkpoint's model is checked with a forward pass of that many tokens.
    """
    from ...search.space.students import student_sections
    from ...training import tasks
    from ...training.checkpoints.inspection import check_forward, shallow_model
    from ...training.checkpoints.load import most_tokens
    from ...training.data.analysis.lengths import count_tokens, needed_length

    teachers = [each.encoder for each in config.teacher.members]
    needed, teacher = needed_length(counts), teachers[0]
    students = [section for section, _ in student_sections(config.student, config.search.space)]
    for source in dict.fromkeys([*teachers, *(each.source for each in students)]):
        if source is not None and source != teacher:
            needed = max(needed, needed_length(count_tokens(checkpoints.tokenizer(source), texts)))
    others = [name for each in students for name in each.checkpoints().values()]
    names = dict.fromkeys(filter(None, [*teachers, *others]))
    task = tasks.get(config.task)
    models = {name: shallow_model(checkpoints.directory(name), task) for name in names}
    limits = {name: most_tokens(model) for name, model in models.items()}
    if teacher is None or any(each.scratch is not None for each in config.teacher.members):
        limits["teacher.scratch"] = _MOST_OF_NEW
    if task.of_windows:
        limits["windows"] = _MOST_OF_WINDOW
    for name, most in limits.items():
        if most is not None and most < LEAST_TOKENS:
            raise ModelError(
                f"{name}: its model takes at most {most} tokens (max_position_embeddings of config.json); at least "
                f"{LEAST_TOKENS} are needed; use another checkpoint, or correct the key"
            )
    chosen = min([needed, MOST_AUTOMATIC, *(most for most in limits.values() if most is not None)])
    for name, model in models.items():
        check_forward(model, name, chosen)
    return chosen


def _warn_of_truncated(found: TokenLengths) -> None:
    how = "%d given"
    remedy = "raise it if what is cut off matters"
    if found.automatic:
        how = "auto is %d here, the most that the models accept"
        remedy = "use models with more positions if what is cut off matters"
        if found.max_length >= MOST_AUTOMATIC:
            how = "auto is at most %d"
            remedy = "give a number if what is cut off matters and the models accept more"
    logger.warning(
        f"training.max_length: {how}, and %.1f %% of the training texts are longer and lose their end (95 %% have at "
        f"most %d tokens, 99 %% at most %d); {remedy}",
        found.max_length,
        100 * found.share_truncated,
        found.p95,
        found.p99,
    )


def truncation_in_words(lengths: TokenLengths | None, *, of_windows: bool = False) -> str:
    """Describe the share of long texts, and the maximum length if it was chosen automatically.

    ``of_windows``: whether long texts are divided into windows instead of truncated.
    """
    if lengths is None:
        return ""
    done, to = ("divided into windows", "of") if of_windows else ("truncated", "to")
    share = f"{lengths.share_truncated:.1%} {done}"
    if lengths.automatic:
        return f"; {share} {to} {lengths.max_length} tokens (auto)"
    return f"; {share}" if lengths.share_truncated else ""
