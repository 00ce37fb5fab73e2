"""What runs beside Ray Tune, from the first trial to the last."""
