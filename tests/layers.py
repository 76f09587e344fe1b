"""Which file may import which of ours; `test_layers` reads the imports and compares."""

LLAVA_CORE = {
    "__init__": "predict generate/request",
    "errors": "",
    "config": "errors",
    "conversation": "errors",
    "images": "config errors",
    "tokens": "errors",
    "model/vision": "config errors",
    "model/projector": "config errors",
    "model/merge": "images config errors",
    "model/llava": "model/vision model/projector model/merge images tokens config errors",
    "checkpoint/hub": "errors",
    "checkpoint/keys": "",
    "checkpoint/files": "errors",
    "checkpoint/load": "checkpoint/hub checkpoint/keys checkpoint/files model/llava config errors",
    "generate/request": "errors",
    "generate/features": "",
    "generate/sampling": "generate/request",
    "generate/plan": "generate/request tokens",
    "generate/engine": "generate/plan generate/request generate/sampling model/llava",
    "predict": "generate/engine generate/plan generate/request generate/features checkpoint/files checkpoint/hub "
    "checkpoint/load model/llava conversation images tokens config errors",
    "tiny": "checkpoint/keys model/llava config errors",
}

LLAVA_EVAL = {
    "errors": "",
    "records": "",
    "resources": "errors",
    "spec": "",
    "registry": "spec prompts metrics/__init__ sources/llava_layout resources errors",
    "sources/llava_layout": "spec records errors",
    "sources/mini": "resources errors",
    "sources/open": "sources/llava_layout sources/mini spec records errors",
    "prompts": "spec records errors",
    "store": "records errors",
    "backends/base": "records errors",
    "backends/local": "backends/base records errors",
    "backends/replay": "backends/base store records errors",
    "run": "backends/base store records errors",
    "extract": "",
    "metrics/base": "records",
    "metrics/statistics": "records",
    "metrics/normalize": "",
    "metrics/vqa": "metrics/base metrics/statistics metrics/normalize extract records errors",
    "metrics/gqa": "metrics/base metrics/statistics extract records errors",
    "metrics/choice": "metrics/base metrics/statistics extract records errors",
    "metrics/binary": "metrics/base metrics/statistics extract records errors",
    "metrics/__init__": "metrics/base metrics/vqa metrics/gqa metrics/choice metrics/binary",
    "answers": "records errors",
    "score": "metrics/__init__ metrics/base spec store records errors",
    "results": "records errors",
    "leaderboard": "spec records",
    "pages": "leaderboard resources",
    "report": "leaderboard pages results store spec records errors",
    "manifest": "spec records errors",
    "cli": "registry sources/open sources/mini prompts run store backends/base backends/local score answers report "
    "manifest resources spec records errors",
    "__main__": "cli errors",
}

ALLOWED = {
    package: {
        name: {f"{package}/{other}" for other in names.split()} for name, names in table.items()
    }
    for package, table in (("llava_core", LLAVA_CORE), ("llava_eval", LLAVA_EVAL))
}
ALLOWED["llava_eval"]["backends/local"] |= {
    "llava_core/__init__",
    "llava_core/errors",
    "llava_core/predict",
}
