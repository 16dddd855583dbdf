

aNoOp^y

yNoOp^a