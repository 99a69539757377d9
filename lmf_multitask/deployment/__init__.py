"""From a trained run to predictions: static models, a predictor, an HTTP service. No paddlenlp, no `datasets`."""
