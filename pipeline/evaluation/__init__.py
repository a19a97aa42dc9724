"""How pictures and losses are judged: features, distances, copies, baseline, report."""
