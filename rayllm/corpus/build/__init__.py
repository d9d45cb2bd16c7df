"""From files to the corpus, in tasks that may be killed and begun again."""
