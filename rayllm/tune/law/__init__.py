"""The mixture law: from a few trainings on different mixtures to the mixture that is worth training on."""
