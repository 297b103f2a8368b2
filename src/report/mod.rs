//! What results mean: tables, comparisons, gates, charts.
