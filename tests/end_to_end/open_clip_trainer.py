"""open_clip's own trainer, as it stands in its package: `python open_clip_trainer.py ARGUMENTS`.

open_clip 3.3 was made for webdataset up to 0.2.86. Later ones end each tar with an empty record, which its reader of
tars does not know; the option that leaves it out is given here, and nothing else is changed.
"""

import functools
import sys

import open_clip_train.data
from open_clip_train.main import main
from webdataset.tariterators import tar_file_expander


def without_end_records() -> None:
    open_clip_train.data.tar_file_expander = functools.partial(tar_file_expander, eof_value=None)


if __name__ == "__main__":
    without_end_records()
    main(sys.argv[1:])
