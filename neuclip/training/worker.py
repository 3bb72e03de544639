"""The program of one rank: `python -m neuclip.training.worker JOB.json`, alone or under torchrun."""

import logging
import sys
from pathlib import Path

from neuclip.distributed.world import World
from neuclip.foundation.children import die_with_parent
from neuclip.foundation.errors import NeuclipError
from neuclip.storage.files import write_bytes
from neuclip.training.job import ERROR, RESULT, ChildFailure, TrainJob
from neuclip.training.loop import train


def main(job_path: Path) -> int:
    """Train as the job says; write the result, or the error, into the exchange folder."""
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    job = TrainJob.model_validate_json(job_path.read_bytes())
    world = World.from_environment()
    try:
        result = train(job, world)
        if world.is_main:
            write_bytes(str(job.exchange_folder / RESULT), result.model_dump_json().encode())
    except NeuclipError as error:
        failure = ChildFailure(kind=type(error).__name__, message=str(error))
        write_bytes(str(job.exchange_folder / ERROR), failure.model_dump_json().encode())
        return error.exit_code
    finally:
        world.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
