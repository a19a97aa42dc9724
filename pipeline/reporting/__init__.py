"""Pages for people: what a retraining changed, what two data sets differ in, whether new data have drifted."""
