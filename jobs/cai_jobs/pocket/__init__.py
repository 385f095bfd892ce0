"""The pocket world: a tiny language, data sets, a base model and a judge, so that the whole loop runs on two cores."""
