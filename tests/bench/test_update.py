"""Oracle: intervals counted by hand."""

from bench import update


def test_what_is_covered_twice_counts_once():
    assert update.covered([(5, 6), (0, 2), (1, 3), (1.5, 1.6), (3, 4)]) == 5
    assert update.covered([]) == 0


def test_without_a_gpu_it_says_so(capsys, monkeypatch):
    monkeypatch.setattr(update.torch.cuda, "is_available", lambda: False)
    update.main()
    assert capsys.readouterr().out == "an update on a GPU: there is none here\n"
