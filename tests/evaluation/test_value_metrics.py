"""Metrics of real-valued tasks by hand and against scipy and scikit-learn; intervals, baselines, comparison."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, mean_squared_error
from sklearn.preprocessing import StandardScaler

from lmf_multitask.evaluation.assessment import assess, evaluate_predictions
from lmf_multitask.evaluation.baselines import PENALTIES, baseline_predictions, fit_linear_baseline, flat_features
from lmf_multitask.evaluation.calibration import Calibration, fit_interval
from lmf_multitask.evaluation.comparison import compare
from lmf_multitask.evaluation.metrics import METRICS, metrics_of, value_of, weighted_values
from lmf_multitask.evaluation.predictions import Predictions, read_predictions, write_predictions
from lmf_multitask.evaluation.run_tables import seed_tables
from lmf_multitask.evaluation.statistics import holm, seed_summary
from lmf_multitask.evaluation.tables import full_tables, results_table
from lmf_multitask.evaluation.verdicts import comparison_text
from lmf_multitask.tasks import BinaryTask, RegressionTask

NAN = np.nan
SENTIMENT = RegressionTask("sentiment", range=(-3, 3))
VALUES = ("mae", "rmse", "pearson", "spearman", "ccc")


def made_up(rows=200, seed=0, noise=0.8):
    rng = np.random.default_rng(seed)
    labels = np.round(rng.uniform(-3, 3, rows) * 5) / 5
    labels[:10] = 0
    return labels, np.clip(labels + noise * rng.normal(size=rows), -3, 3)


def of(labels, predictions, task=SENTIMENT, weights=None):
    names = [name for name, metric in METRICS.items() if metric.rates(task)]
    found = weighted_values(
        np.asarray(labels)[:, None], np.asarray(predictions)[:, None], [task], weights=weights, names=names
    )
    return {name: values[:, 0] for name, values in found.items()}


def test_by_hand():
    found = {name: float(values[0]) for name, values in of([-3, -1, 0, 2], [-2.6, 0.4, -0.2, 3]).items()}
    assert found["mae"] == pytest.approx(0.75)
    assert found["rmse"] == pytest.approx(np.sqrt((0.16 + 1.96 + 0.04 + 1) / 4))
    assert found["acc7"] == 0.5  # -2.6 rounds to -3, -0.2 to 0; 0.4 is not -1, 3 is not 2
    assert found["acc5"] == 0.75  # within -2 and 2 the first and the last are equal, too
    assert found["acc2_negative_nonnegative"] == 0.5  # -, +, -, + for -, -, +, +
    assert found["acc2_negative_positive"] == pytest.approx(2 / 3)  # without the zero
    assert found["f1_negative_positive"] == pytest.approx(2 / 3)  # F1 2/3 of both classes
    assert found["spearman"] == pytest.approx(0.8)
    mean, other, covariance = -0.5, 0.15, np.cov([-3, -1, 0, 2], [-2.6, 0.4, -0.2, 3], bias=True)
    assert found["ccc"] == pytest.approx(
        2 * covariance[0, 1] / (covariance[0, 0] + covariance[1, 1] + (mean - other) ** 2)
    )


def test_agreement_with_scipy_and_scikit_learn():
    labels, predictions = made_up()
    found = {name: float(values[0]) for name, values in of(labels, predictions).items()}
    assert found["mae"] == pytest.approx(mean_absolute_error(labels, predictions), rel=1e-12)
    assert found["rmse"] == pytest.approx(mean_squared_error(labels, predictions) ** 0.5, rel=1e-12)
    assert found["pearson"] == pytest.approx(stats.pearsonr(labels, predictions)[0], rel=1e-12)
    assert found["spearman"] == pytest.approx(stats.spearmanr(labels, predictions)[0], rel=1e-12)
    assert found["acc7"] == np.mean(np.round(labels) == np.round(predictions))
    for name, chosen, positive in (
        ("negative_nonnegative", labels > -9, np.greater_equal),
        ("negative_positive", labels != 0, np.greater),
    ):
        truth, decided = (positive(values[chosen], 0) for values in (labels, predictions))
        assert found[f"acc2_{name}"] == pytest.approx(accuracy_score(truth, decided), rel=1e-12)
        assert found[f"f1_{name}"] == pytest.approx(f1_score(truth, decided, average="weighted"), rel=1e-12)


def test_weights_count_as_repeated_rows():
    labels, predictions = made_up(60)
    weights = np.random.default_rng(1).integers(0, 4, (5, 60)).astype(np.float32)
    found = of(labels, predictions, weights=weights)
    for r, counts in enumerate(weights.astype(int)):
        repeated = of(np.repeat(labels, counts), np.repeat(predictions, counts))
        for name, values in found.items():
            assert values[r] == pytest.approx(repeated[name][0], rel=2e-5), name


def test_labels_that_lack_change_nothing():
    labels, predictions = made_up(50)
    with_gaps = of(np.append(labels, [NAN] * 9), np.append(predictions, [5.0] * 9))
    assert with_gaps == of(labels, predictions)


@pytest.mark.parametrize(("labels", "predictions"), [([1, 2, 3], [2, 2, 2]), ([2, 2, 2], [1, 2, 3]), ([NAN], [1])])
def test_what_is_undefined(labels, predictions):
    found = of(labels, predictions, RegressionTask("valence"))
    assert np.isnan(found["pearson"]) and np.isnan(found["spearman"])
    assert np.isnan(found["ccc"]) != (labels == [1, 2, 3])  # constant predictions have no concordance: 0


def test_metrics_of_classes_are_for_known_ranges():
    labels, predictions = made_up(30)
    assert set(of(labels, predictions, RegressionTask("valence"))) == set(VALUES)
    assert set(of(labels + 4, predictions + 4, RegressionTask("vivid", range=(1, 7)))) == {*VALUES, "acc7"}
    assert set(of(labels / 3, predictions / 3, RegressionTask("sentiment", range=(-1, 1)))) == set(VALUES)


def mixed(rows=80):
    labels, predictions = made_up(rows)
    happy = (labels > 0).astype(float)
    chances = np.clip(0.5 + 0.2 * predictions, 0, 1)
    return np.stack([happy, labels], axis=1), np.stack([chances, predictions], axis=1), [BinaryTask("happy"), SENTIMENT]


def test_emotions_are_as_without_real_valued_tasks():
    labels, predictions, tasks = mixed()
    calibration, alone = (Calibration.fit(labels[:, :n], predictions[:, :n], tasks[:n]) for n in (2, 1))
    both = assess(labels, predictions, tasks, split="test", calibration=calibration, resamples=50)
    one = assess(labels[:, :1], predictions[:, :1], tasks[:1], split="test", calibration=alone, resamples=50)
    assert "regression" not in one
    for name in ("emotions", "always_absent", "thresholds", "exclusive"):
        assert both[name] == one[name], name
    assert both["intervals"]["emotions"] == one["intervals"]["emotions"]
    assert both["calibration"]["emotions"] == one["calibration"]["emotions"]
    assert set(both["regression"]) == set(both["intervals"]["regression"]) == {"sentiment"}
    low, high = both["intervals"]["regression"]["sentiment"]["mae"]
    assert low < both["regression"]["sentiment"]["mae"] == both["mean"]["mae"] < high
    assert {**both["mean"], **one["mean"]} == both["mean"]


def test_a_monitor_of_mixed_kinds_is_the_mean_of_their_own():
    labels, predictions, tasks = mixed()
    found = metrics_of(labels, predictions, tasks)
    wanted = (found["emotions"]["happy"]["average_precision"] + found["regression"]["sentiment"]["ccc"]) / 2
    assert value_of("task_metric", labels, predictions, tasks) == pytest.approx(wanted, rel=1e-12)
    assert value_of("task_metric", labels[:, :1], predictions[:, :1], ["happy"]) == value_of(
        "average_precision", labels[:, :1], predictions[:, :1], ["happy"]
    )


# -- prediction intervals


def test_split_conformal_interval_by_hand():
    found = fit_interval(np.array([*range(19), NAN]), np.zeros(20))
    assert (found.half_width, found.rows, found.coverage) == (17, 19, 0.9)  # the ceil(20 * 0.9) = 18th of 0 ... 18
    assert fit_interval(np.arange(8.0), np.zeros(8)) is None  # ceil(9 * 0.9) = 9 of 8


def test_the_interval_covers_what_it_promises():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        half = fit_interval(rng.standard_t(3, 60), np.zeros(60)).half_width
        covered.append(np.mean(np.abs(rng.standard_t(3, 200)) <= half))
    assert 0.9 <= np.mean(covered) <= 0.92  # (n + 1) 0.9 rounded up, over n + 1


def test_intervals_are_kept_with_the_calibration(tmp_path):
    labels, predictions, tasks = mixed()
    fitted = Calibration.fit(labels, predictions, tasks)
    fitted.save(tmp_path)
    assert Calibration.load(tmp_path) == fitted
    covered = fitted.coverage(labels, predictions, tasks)["sentiment"]
    inside = np.abs(labels[:, 1] - predictions[:, 1]) <= covered["half_width"]
    assert covered["covered"] == inside.mean() >= 0.9


# -- baselines, comparison, tables


def columns(rows, seed):
    rng = np.random.default_rng(seed)
    audio = rng.normal(size=(rows, 3)).astype("f4")
    target = audio @ [1.0, -0.5, 0.2] + 0.3 * rng.normal(size=rows)
    labels = np.stack([(target > 0), np.where(rng.uniform(size=rows) < 0.1, NAN, target)], axis=1).astype("f4")
    video, text = (rng.normal(size=size).astype("f4") for size in ((rows, 2), (rows, 4, 2)))
    return {"audio": audio, "video": video, "text": text, "labels": labels}


def test_ridge_regression_agrees_with_scikit_learn():
    train, validation, test = columns(120, 0), columns(50, 1), columns(40, 2)
    tasks = [BinaryTask("happy"), RegressionTask("valence")]
    found = baseline_predictions(train["labels"], fit_linear_baseline(train, validation, tasks), test)
    assert list(found) == ["prevalence", "logistic_regression", "train_mean", "ridge_regression"]
    scaler = StandardScaler().fit(flat_features(train))
    x, x_validation, x_test = (scaler.transform(flat_features(one)) for one in (train, validation, test))
    (known, judged), targets = (~np.isnan(one["labels"][:, 1]) for one in (train, validation)), train["labels"][:, 1]
    models = [Ridge(alpha).fit(x[known], targets[known].astype("f8")) for alpha in PENALTIES]
    errors = [np.mean((m.predict(x_validation[judged]) - validation["labels"][judged, 1]) ** 2) for m in models]
    np.testing.assert_allclose(found["ridge_regression"][:, 1], models[np.argmin(errors)].predict(x_test), rtol=1e-9)
    np.testing.assert_allclose(found["train_mean"][:, 1], np.nanmean(targets.astype("f8")))
    assert np.isnan(found["ridge_regression"][:, 0]).all() and np.isnan(found["logistic_regression"][:, 1]).all()
    ahead = assess(test["labels"], np.stack([found["logistic_regression"][:, 0], test["audio"][:, 0]], axis=1), tasks,
                   split="test", baselines=found, resamples=50)["baselines"]  # fmt: skip
    difference = ahead["ridge_regression"]["network_ahead"]["regression"]["valence"]["mae"]["difference"]
    assert difference == ahead_of(test, found)
    assert set(ahead["logistic_regression"]["network_ahead"]["emotions"]["happy"]["auroc"]) == {
        "difference",
        "interval",
    }
    assert "regression" not in ahead["logistic_regression"]["network_ahead"]


def ahead_of(test, found):
    truth = test["labels"][:, 1].astype("f8")
    errors = [
        np.nanmean(np.abs(truth - values))
        for values in (test["audio"][:, 0].astype("f8"), found["ridge_regression"][:, 1])
    ]
    return pytest.approx(errors[0] - errors[1], abs=1e-6)


def test_comparison_against_scipy(tmp_path):
    labels, good, tasks = mixed(120)
    bad = good.copy()
    bad[:, 1] += 0.4 * np.random.default_rng(5).normal(size=120)
    ids = [f"c{row}" for row in range(120)]
    models = []
    for name, values in (("good", good), ("bad", bad)):
        write_predictions(tmp_path / f"{name}.csv", ids, labels, values, tasks)
        models.append(read_predictions(tmp_path / f"{name}.csv", name))
    assert (
        (tmp_path / "good.csv")
        .read_text()
        .startswith("id,happy_label,happy_probability,happy_prediction,sentiment_label,sentiment_value\n")
    )
    (pair,) = compare(models, resamples=200).pairs
    errors = [np.abs(values[:, 1] - labels[:, 1]) for values in (good, bad)]
    found = pair.values["sentiment"]
    assert found.p == pytest.approx(stats.wilcoxon(*errors).pvalue, rel=1e-6)
    assert (found.only_first, found.only_second) == ((errors[0] < errors[1]).sum(), (errors[1] < errors[0]).sum())
    assert found.differences["mae"] == pytest.approx(errors[1].mean() - errors[0].mean(), abs=1e-7)
    corrected = holm([pair.emotions["happy"].p, found.p])
    assert [pair.emotions["happy"].corrected, found.corrected] == corrected
    text = comparison_text(compare(models, resamples=200))
    assert "Wilcoxon p" in text and "good is better on MAE" in text


def test_models_of_other_kinds_are_not_compared():
    labels, values = made_up(20)
    ids = [str(row) for row in range(20)]
    first = Predictions("a", "a.csv", ids, [RegressionTask("x")], labels[:, None], values[:, None])
    second = Predictions("b", "b.csv", ids, ["x"], np.full((20, 1), NAN), np.full((20, 1), 0.5))
    with pytest.raises(Exception, match="b.csv: x must be a regression task, as in a.csv, but is binary"):
        compare([first, second])


def test_tables_and_seeds():
    labels, predictions, tasks = mixed()
    found = [
        assess(labels, predictions * [1, 1 + shift], tasks, split="test", seed=seed, resamples=20)
        for seed, shift in ((1, 0), (2, 1e-3))
    ]
    text = full_tables(found[0])
    assert "Acc-2 neg/non-neg" in text and "negative against positive, without clips whose label is 0" in text
    assert [line.split()[:3] for line in results_table(found[0]).splitlines() if line.startswith("sentiment")] == [
        ["sentiment", "80", f"{found[0]['regression']['sentiment']['mae']:.3f}"]
    ]
    emotions, values = seed_tables(seed_summary(found))
    assert (emotions.rows[0][0], values.rows[0][0]) == ("happy", "sentiment")


def test_predictions_of_any_model_can_be_evaluated():
    labels, predictions = made_up(60)
    found = evaluate_predictions(labels[:, None], predictions[:, None], ["sentiment:regression:-3:3"], resamples=20)
    assert found.metrics["emotions"] == {}
    assert found.metrics["regression"]["sentiment"]["acc7"] == np.mean(np.round(labels) == np.round(predictions))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,x_value\na,much\n", "x_value in line 2 must be a number, but is 'much'"),
        ("id,x_value,x_label\na,1,inf\n", "x_label in line 2 must be a number, but is 'inf'"),
    ],
)
def test_wrong_values(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(Exception, match=message):
        read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize(("rows", "shown"), [(686, True), (573, False)])
def test_published_results_are_shown_for_their_test_split_only(rows, shown):
    labels, predictions = made_up(rows)
    found = evaluate_predictions(labels[:, None], predictions[:, None], ["sentiment:regression:-3:3"], resamples=10)
    assert ("published for the test split of CMU-MOSI" in full_tables(found.metrics)) == shown
