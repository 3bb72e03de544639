"""The one door to the web. Contract: nothing is fetched from an address that was not checked, or past a limit."""
