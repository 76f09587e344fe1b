"""Which file may import which of ours; `test_layers` reads the imports and compares."""

LLAVA_CORE = {
    "__init__": "predict generate/request",
    "errors": "",
    "json_files": "errors",
    "config": "json_files errors",
    "conversation": "errors",
    "templates": "conversation errors",
    "images": "json_files errors",
    "tokens": "conversation json_files errors",
    "model/scales": "",
    "model/vision": "model/scales config errors",
    "model/projector": "config errors",
    "model/merge": "images config errors",
    "model/mpt": "",
    "model/llava": "model/vision model/projector model/merge images tokens config errors",
    "checkpoint/hub": "errors",
    "checkpoint/keys": "",
    "checkpoint/files": "json_files errors",
    "checkpoint/shards": "checkpoint/files errors",
    "checkpoint/parts": "config",
    "checkpoint/tower": "checkpoint/keys json_files errors",
    "checkpoint/original": "checkpoint/hub checkpoint/keys checkpoint/files checkpoint/parts "
    "checkpoint/tower config errors",
    "checkpoint/lazy": "",
    "checkpoint/adapters": "checkpoint/files checkpoint/keys checkpoint/lazy checkpoint/original "
    "checkpoint/parts config json_files errors",
    "checkpoint/delta": "checkpoint/files checkpoint/keys checkpoint/lazy checkpoint/parts "
    "json_files errors",
    "checkpoint/destination": "errors",
    "checkpoint/open": "checkpoint/adapters checkpoint/files checkpoint/hub checkpoint/original "
    "checkpoint/parts errors",
    "checkpoint/placement": "config errors",
    "checkpoint/fingerprint": "",
    "checkpoint/template": "templates config errors",
    "checkpoint/extra_tokens": "config errors",
    "checkpoint/load": "checkpoint/keys checkpoint/lazy checkpoint/parts checkpoint/placement "
    "model/llava model/mpt errors",
    "generate/request": "errors",
    "generate/features": "",
    "generate/sampling": "generate/request",
    "generate/plan": "generate/request tokens",
    "generate/engine": "generate/plan generate/request generate/sampling model/llava",
    "predict": "generate/engine generate/plan generate/request generate/features checkpoint/load "
    "checkpoint/open checkpoint/parts checkpoint/placement checkpoint/template "
    "checkpoint/extra_tokens checkpoint/fingerprint model/llava "
    "conversation templates images tokens config json_files errors",
    "tiny": "checkpoint/hub checkpoint/keys model/llava config",
}

LLAVA_EVAL = {
    "errors": "",
    "records": "",
    "resources": "errors",
    "spec": "",
    "registry": "spec prompts metrics/__init__ sources/llava_layout resources errors",
    "sources/files": "spec errors",
    "sources/mmbench": "sources/files spec records errors",
    "sources/llava_layout": "sources/files sources/mmbench sources/questions extract spec records errors",
    "sources/questions": "sources/files records",
    "sources/open": "sources/llava_layout mini/write spec records errors",
    "mini/scenes": "",
    "mini/files": "",
    "mini/vqa": "mini/files mini/scenes",
    "mini/yes_no": "mini/files mini/scenes",
    "mini/choice": "mini/files mini/scenes sources/mmbench",
    "mini/write": "mini/__init__ mini/vqa mini/yes_no mini/choice mini/files resources errors",
    "prompts": "spec records errors",
    "store": "records errors",
    "backends/base": "records errors",
    "backends/local": "backends/base records errors",
    "backends/replay": "backends/base store records errors",
    "run": "backends/base store records errors",
    "extract": "",
    "metrics/base": "metrics/statistics records",
    "metrics/statistics": "records",
    "metrics/normalize": "",
    "metrics/vqa": "metrics/base metrics/statistics metrics/normalize records",
    "metrics/gqa": "metrics/base extract records",
    "metrics/choice": "metrics/base metrics/statistics extract records",
    "metrics/binary": "metrics/base metrics/statistics extract records",
    "metrics/__init__": "metrics/base metrics/vqa metrics/gqa metrics/choice metrics/binary",
    "answers": "extract records errors",
    "score": "metrics/__init__ metrics/base spec store records",
    "results": "records errors",
    "leaderboard": "spec records",
    "pages": "leaderboard resources",
    "report": "leaderboard pages results store spec records errors",
    "manifest": "results store spec errors",
    "plan": "manifest metrics/__init__ prompts sources/open spec records errors",
    "progress": "backends/base",
    "table": "leaderboard spec records",
    "commands/arguments": "",
    "commands/run": "commands/arguments backends/base backends/local manifest plan progress "
    "registry report run score store table spec records",
    "commands/score": "commands/arguments answers prompts registry score sources/open table spec "
    "errors",
    "commands/report": "registry report",
    "commands/tasks": "commands/arguments leaderboard prompts registry sources/open spec",
    "commands/data": "mini/write",
    "cli": "commands/run commands/score commands/report commands/tasks commands/data errors",
    "__main__": "cli",
}

ALLOWED = {
    package: {
        name: {f"{package}/{other}" for other in names.split()} for name, names in table.items()
    }
    for package, table in (("llava_core", LLAVA_CORE), ("llava_eval", LLAVA_EVAL))
}
ALLOWED["llava_eval"]["backends/local"] |= {
    "llava_core/__init__",
    "llava_core/conversation",
    "llava_core/errors",
    "llava_core/images",
}
