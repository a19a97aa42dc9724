"""Whether a challenger becomes champion: both are measured in the same way, and rules decide.

Begin reading with promotion.py, the rules as pure functions. comparison.py measures challenger and champion in processes of their
own (evaluation_process.py starts them, trial.py is what they run), second_judge.py compares them in the features of another
network, work.py counts what an image costs, and kid_difference.py knows the luck of images and seeds.

May import evaluation, training, inference, artefacts and diffusion: it knows neither MLflow nor any other part of the registry.
"""
