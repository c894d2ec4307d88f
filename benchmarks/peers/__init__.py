"""Other people's ways to train the same networks, written without the suite, to hold it against."""
