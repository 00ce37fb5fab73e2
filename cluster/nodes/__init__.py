"""Ray on machines: daemons that are started, joined, found and ended."""
