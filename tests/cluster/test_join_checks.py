"""Labels against what was proved."""

import pytest

from cluster.errors import JoinRefusedError
from cluster.join_checks import check_hints
from tests.cluster.fleets import capability


@pytest.mark.parametrize("label", ["h200", "NVIDIA-H100-80GB", "GH100", "yes", "rtx-6000"])
def test_a_gpu_label_that_the_proved_chip_may_bear_is_accepted(label) -> None:
    check_hints({"gpu": label}, capability())


@pytest.mark.parametrize("label", ["b200", "NVIDIA A100 80GB", "gb200", "h100-or-a100"])
def test_a_gpu_label_that_names_another_chip_than_was_proved_is_refused(label) -> None:
    with pytest.raises(JoinRefusedError, match=f"gpu={label} is not what the evidence says, GH100: correct"):
        check_hints({"gpu": label}, capability())
