"""What must hold between sections of params.yaml. Each check raises `ValueError`, which the reader turns into a sentence."""

from spin.params.sections import ParamSections
from spin.params.training import StageParams


def check_prev(params: ParamSections) -> None:
    """Every `prev` exists and following it ends at the base."""
    stages: dict[str, StageParams] = {
        f"iterations.{name}": stage for name, stage in params.iterations.items()
    }
    stages |= {f"baselines.{name}": stage for name, stage in params.baselines.items()}
    for where, stage in stages.items():
        seen = [where.split(".")[1]]
        prev = stage.prev
        while prev != "base":
            if prev not in params.iterations:
                known = ", ".join(["base", *params.iterations])
                raise ValueError(f"{where}.prev must be one of {known}, got {prev}; correct the name")
            if prev in seen:
                circle = " -> ".join([*seen, prev])
                raise ValueError(f"{where}.prev must lead back to base, got the circle {circle}; break it")
            seen.append(prev)
            prev = params.iterations[prev].prev


def check_evaluation_only(params: ParamSections) -> None:
    """Without training data nothing trains, and prompts come from elsewhere."""
    trained = [*params.iterations, *params.baselines]
    if trained:
        raise ValueError(f"data.kind must not be none where {trained[0]} is trained; give data or remove it")
    held_out = [
        name for name in params.evaluate.prompt_sets if params.prompt_sets[name].prompts in ("val", "test")
    ]
    if held_out:
        raise ValueError(
            f"prompt_sets.{held_out[0]}.prompts must be a published set or a file with data.kind none, got "
            f"{params.prompt_sets[held_out[0]].prompts}; there are no held-out captions"
        )


def check_names(params: ParamSections) -> None:
    """Model names are unique, and evaluation names the models and scorers that exist."""
    # Every model has one name, and evaluation names them all.
    models = ["base", *params.released, *params.baselines, *params.iterations]
    twice = sorted(name for name in set(models) if models.count(name) > 1)
    if twice:
        raise ValueError(f"the name {twice[0]} must be given to one model only; rename one of them")
    if len(models) == 1:
        raise ValueError("iterations must name at least one, got none; copy iter1 from the file in profiles/")
    if sorted(params.evaluate.models) != sorted(models):
        raise ValueError(
            f"evaluate.models must name {', '.join(models)}, got {', '.join(params.evaluate.models)}"
        )
    if "clean" in models:
        raise ValueError(
            "the name clean must be left to the reference level; rename the iteration or baseline"
        )

    # Lists of names hold names that exist, each once.
    for key, known, given in (
        ("evaluate.prompt_sets", params.prompt_sets, params.evaluate.prompt_sets),
        ("tables.over", params.evaluate.models, params.tables.over),
        ("tables.average_of", params.scorers, params.tables.average_of),
    ):
        for name in given:
            if given.count(name) > 1:
                raise ValueError(f"{key} must name each of its items once, got {name} twice; remove one")
            if name not in known:
                raise ValueError(f"{key} must name some of {', '.join(known)}, got {name}; correct the name")


def check_sections(params: ParamSections) -> None:
    """What one section asks of another."""
    if params.training.horizontal_flip and params.opponents.latents == "direct":
        raise ValueError(
            "opponents.latents must be reencode with training.horizontal_flip, got direct; the sampler draws no mirrored "
            "latents"
        )

    # Objective and opponents.
    if params.objective.kind == "exact" and params.opponents.drawn_by != "previous":
        raise ValueError(
            f"opponents.drawn_by must be previous with objective.kind exact, got {params.opponents.drawn_by}; the exact "
            "objective draws the previous iterate's trajectory itself"
        )
    check_reference_draws(params)

    # Data and resolution.
    if params.data.kind == "none":
        check_evaluation_only(params)
    if params.data.kind == "toy" and params.resolution != 32:
        raise ValueError(
            f"resolution must be 32 with data.kind toy, got {params.resolution}; that world is 32 pixels wide"
        )
    if params.resolution % 8:
        raise ValueError(
            f"resolution must be a multiple of 8, got {params.resolution}; the autoencoder halves it thrice"
        )

    check_buckets(params)

    # Reference levels, which only the embedded world's own captions have.
    if params.evaluate.references and params.data.kind != "toy":
        raise ValueError(
            "evaluate.references must be [] unless data.kind is toy; only that world knows perfect images"
        )
    own = {"val", "test"}
    foreign = [
        name
        for name in params.evaluate.prompt_sets
        if name in params.prompt_sets and params.prompt_sets[name].prompts not in own
    ]
    if params.evaluate.references and foreign:
        raise ValueError(
            f"evaluate.references must be [] with the prompt set {foreign[0]}; only the embedded world's own captions "
            "have perfect images"
        )


def check_reference_draws(params: ParamSections) -> None:
    """Errors of the reference are computed beforehand for the approximate objective, one reference and one shape."""
    for key, wanted in {"kind": "approximate", "reference": "previous"}.items():
        given = getattr(params.objective, key)
        if params.training.reference_draws is not None and given != wanted:
            raise ValueError(
                f"training.reference_draws must be null with objective.{key} {given}, got "
                f"{params.training.reference_draws}; set it to null, or objective.{key} to {wanted}"
            )

    if params.training.reference_draws is not None and getattr(params.data, "aspect_buckets", None):
        raise ValueError(
            f"training.reference_draws must be null with data.aspect_buckets, got {params.training.reference_draws}; errors "
            "are kept for batches of one shape; set one of them to null"
        )


def check_buckets(params: ParamSections) -> None:
    """The sizes of the buckets suit the autoencoder, have the square among them, and are not the square alone."""
    buckets = getattr(params.data, "aspect_buckets", None)
    if buckets is None:
        return
    if buckets.step % 8:
        raise ValueError(
            f"data.aspect_buckets.step must be a multiple of 8, got {buckets.step}; the autoencoder halves a side thrice"
        )
    if params.resolution % buckets.step:
        raise ValueError(
            f"resolution must be a multiple of data.aspect_buckets.step, {buckets.step}, got {params.resolution}; the square "
            "is one of the buckets: change one"
        )
    if len(buckets.sizes(params.resolution)) == 1:
        raise ValueError(
            f"data.aspect_buckets must give a size besides the square, but no other multiple of {buckets.step} has the area "
            f"of {params.resolution}x{params.resolution} and a ratio up to {buckets.max_ratio:g}; lower the step, raise "
            "max_ratio, or set it to null"
        )


def check_continual(params: ParamSections) -> None:
    """A comparison names an iteration, the one after it, a prompt set, and a stride that meets the end."""
    if "continual" in params.prompt_sets:
        raise ValueError(
            "prompt_sets must have no set named continual, got one; its images would lie where the comparisons do: rename it"
        )
    for key, chosen in params.continual.items():
        where = f"continual.{key}"
        for name in (chosen.finished, chosen.next):
            if name not in params.iterations:
                known = ", ".join(params.iterations) or "none"
                raise ValueError(f"{where} must name iterations ({known}), got {name}; correct the name")
        following = params.iterations[chosen.next]
        if following.prev != chosen.finished:
            raise ValueError(
                f"{where}.next must be the iteration after {chosen.finished}, got {chosen.next}, which follows "
                f"{following.prev}; correct one"
            )
        if following.num_steps % chosen.every:
            raise ValueError(
                f"{where}.every must divide the {following.num_steps} updates of {chosen.next}, got {chosen.every}; "
                "change one"
            )
        if chosen.prompts not in params.prompt_sets:
            known = ", ".join(params.prompt_sets)
            raise ValueError(
                f"{where}.prompts must be one of {known}, got {chosen.prompts}; correct the name"
            )
