#!/usr/bin/env bash
# Holds alerts and dashboard against the metrics that weir has.
#
#   metrics.sh          against metrics.txt, which lists them all
#   metrics.sh FILE     against FILE, a real scrape: curl -s 127.0.0.1:9972/metrics >FILE
#
# Each name that is used must be there, and each query of the dashboard must find something: so a label that is misspelt
# or a join that never matches is found, too.
# shellcheck source=deploy/tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
metrics=${1:-$tests/metrics.txt}
dashboard=$deploy/grafana/weir.json
alerts=$deploy/prometheus/weir-alerts.yml
need jq=jq
need_promtool

say "names of alerts and dashboard are metrics of $(basename "$metrics")"
known=$(awk '$1 == "#" && $2 == "TYPE" {
    print $3
    if ($4 == "histogram") { print $3 "_bucket"; print $3 "_sum"; print $3 "_count" }
}' "$metrics" | sort)
[[ -n $known ]] || fail "$metrics names no metric"
used=$(jq -r '.. | objects | .expr? // empty' "$dashboard" | cat - <(sed -n '/expr:/,/\(for\|labels\):/p' "$alerts") |
    grep -oE '\bweir_[a-z0-9_]+' | sort -u)
[[ $(wc -l <<<"$used") -gt 20 ]] || fail "no names were found in $dashboard and $alerts"
unknown=$(comm -23 <(printf '%s\n' "$used") <(printf '%s\n' "$known"))
[[ -z $unknown ]] || fail "there is no metric of this name: ${unknown//$'\n'/, }"
echo "  $(wc -l <<<"$used") names"

say "the dashboard is whole"
wrong=$(jq -r '
    def cells: .gridPos as $g | [range($g.x; $g.x + $g.w) as $x | range($g.y; $g.y + $g.h) as $y | "\($x),\($y)"];
    [.panels[] | select(.type != "row")] as $panels
    | (if .schemaVersion < 38 then "schemaVersion is older than Grafana 10" else empty end),
      (if ([.panels[].id] | length != (unique | length)) then "two panels have the same id" else empty end),
      (if ([$panels[] | cells[]] | length != (unique | length)) then "two panels overlap" else empty end),
      ($panels[] | select(.gridPos.x + .gridPos.w > 24) | "\(.title): wider than the page"),
      ($panels[] | select((.targets | length) == 0 or any(.targets[]; (.expr // "") == "")) | "\(.title): no query"),
      ($panels[] | select((.fieldConfig.defaults.unit // "") == "") | "\(.title): no unit"),
      ($panels[] | select(any(.targets[], .; .datasource.uid != "${datasource}")) | "\(.title): a fixed data source"),
      ($panels[] | select(any(.targets[]; .expr | contains("instance=~\"$instance\"") | not)) | "\(.title): not by host")
' "$dashboard")
[[ -z $wrong ]] || fail "$wrong"
echo "  $(jq '[.panels[] | select(.type != "row")] | length' "$dashboard") panels"

say "each query of the dashboard finds something"
test=$(mktemp --suffix .json)
trap 'rm -f "$test"' EXIT
# JSON is YAML. Every series counts up from a scrape to the next, so that there is a rate.
jq -n --rawfile metrics "$metrics" --slurpfile dashboard "$dashboard" '
    [$metrics | split("\n")[] | select(startswith("weir_"))
        | capture("^(?<name>[a-z0-9_]+)(\\{(?<labels>.*)\\})? ")
        | { series: "\(.name){instance=\"a:9972\",job=\"weir\"\(if (.labels // "") == "" then "" else "," + .labels end)}",
            values: "0+1x60" }] as $series
    | [$dashboard[0] | .. | objects | .expr? // empty
        | gsub("\\$__rate_interval"; "5m") | gsub("\\$instance"; ".*")] as $queries
    | { evaluation_interval: "15s",
        tests: [{ interval: "15s", input_series: $series,
            promql_expr_test: [$queries[] | { expr: "count(\(.)) >= bool 1", eval_time: "10m",
                exp_samples: [{ labels: "{}", value: 1 }] }] }] }
' >"$test"
promtool test rules "$test" >"$test.log" 2>&1 || {
    cat "$test.log" >&2
    rm -f "$test.log"
    fail "a query of the dashboard finds nothing, or is none"
}
rm -f "$test.log"
echo "  $(jq '.tests[0].promql_expr_test | length' "$test") queries"
