//! What is deployed beside the product names only metrics that there are.

use std::collections::BTreeSet;

use weir_metrics::metric::{ALL, Metric};

const DASHBOARD: &str = include_str!("../../../deploy/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../../deploy/prometheus-alerts.yml");

/// The metrics that an expression names.
fn named(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("weir_")).map(ToOwned::to_owned).collect()
}

fn known() -> BTreeSet<String> {
    ALL.iter().map(Metric::sample).collect()
}

#[test]
fn the_dashboard_asks_for_metrics_that_there_are() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(!panels.is_empty());
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{}", panel["title"]);
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            let metrics = named(target["expr"].as_str().unwrap());
            assert!(!metrics.is_empty() && metrics.is_subset(&known()), "{metrics:?}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let asked = variables.iter().filter_map(|variable| variable["definition"].as_str());
    let asked: Vec<_> = asked.map(named).collect();
    assert!(asked.len() == 3 && asked.iter().all(|metrics| metrics.is_subset(&known())));
}

#[test]
fn alerts_are_about_metrics_that_there_are() {
    let expressions = ALERTS.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    let expressions: Vec<_> = expressions.collect();
    assert_eq!(expressions.len(), ALERTS.matches("- alert: ").count());
    for expression in expressions {
        let metrics = named(expression);
        // Whether it can be scraped Prometheus itself knows.
        let is_its_own = expression.starts_with("up{");
        assert_eq!(metrics.is_empty(), is_its_own, "{expression}");
        assert!(metrics.is_subset(&known()), "{metrics:?}");
    }
}
