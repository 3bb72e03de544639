"""How often tests that kill at random moments do so: a few times in the slow suite, NEUCLIP_KILLS times if asked."""

import os

KILLS = int(os.environ.get("NEUCLIP_KILLS", "3"))
FEW_KILLS = max(2, KILLS // 3)
"""For what takes longer."""
