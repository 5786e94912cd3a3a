"""stub until the data part lands"""
def baselines(train, held, tokenizer, *, cache):
    return {}
