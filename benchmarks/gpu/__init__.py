"""Parts of `benchmarks.gpu_report`, a module each: a function `measure` that notes figures as soon as it has them."""
